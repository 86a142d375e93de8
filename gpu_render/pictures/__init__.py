"""Pictures that people look at: display pixels as JPEG, PNG and GIF, with text burned in and colours managed.

Everything here takes display pixels (uint8, (height, width) or (height, width, 3) RGB) as the renderer makes them, and
is plain work for a thread: the codecs let other threads run meanwhile. What a picture shows is decided before it.
"""
