// Runs the kernels of render.cu on the host: every thread of every block of the grid, in order.
#include "host_shim.h"

#include "render.cu"

template <class Body>
static void for_each_thread(unsigned grid_x, unsigned grid_y, unsigned block, Body body) {
    gridDim = {grid_x, grid_y};
    blockDim = {block, 1};
    for (blockIdx.y = 0; blockIdx.y < grid_y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid_x; ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) body();
}

extern "C" void host_render_batch(unsigned grid_x, unsigned grid_y, unsigned block, const void *frames, int count) {
    for_each_thread(grid_x, grid_y, block,
                    [=] { render_batch(static_cast<const FrameParams *>(frames), count); });
}

extern "C" void host_extent_frame(unsigned grid_x, unsigned grid_y, unsigned block, const void *frame, void *result) {
    for_each_thread(grid_x, grid_y, block, [=] {
        extent_frame(static_cast<const FrameParams *>(frame), static_cast<unsigned long long *>(result));
    });
}
