// Runs the kernels of render.cu on the host: every thread of every block of the grid.
#include "host_shim.h"

#include "render.cu"

extern "C" void host_render_batch(unsigned grid_x, unsigned grid_y, unsigned block, const void *frames, int count) {
    launch(grid_x, grid_y, block, [=] { render_batch(static_cast<const FrameParams *>(frames), count); });
}

extern "C" void host_extent_batch(unsigned grid_x, unsigned grid_y, unsigned block, const void *frames, int count,
                                  void *result) {
    launch(grid_x, grid_y, block,
           [=] { extent_batch(static_cast<const FrameParams *>(frames), count, static_cast<u64 *>(result)); });
}

extern "C" void host_unpack_batch(unsigned grid_x, unsigned grid_y, unsigned block, const void *records, int count) {
    launch(grid_x, grid_y, block, [=] { unpack_batch(static_cast<const UnpackParams *>(records), count); });
}

extern "C" void host_adopt_batch(unsigned grid_x, unsigned grid_y, unsigned block, const void *records, int count) {
    launch(grid_x, grid_y, block, [=] { adopt_batch(static_cast<const AdoptParams *>(records), count); });
}
