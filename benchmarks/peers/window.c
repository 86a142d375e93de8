/* The ruler's window: rescale, PS3.3 C.11.2.1.2.1 LINEAR and clamp are one multiplication and one addition a sample. */
#include <stddef.h>
#include <stdint.h>

void window(const int16_t *stored, uint8_t *shown, size_t count, float gain, float offset) {
  for (size_t i = 0; i < count; i++) {
    float grey = stored[i] * gain + offset;
    grey = grey < 0.0f ? 0.0f : grey > 255.0f ? 255.0f : grey;
    shown[i] = (uint8_t)grey;
  }
}
