"""Every error the core raises on purpose.

::

    RenderError
    ├── BadRequest                  400  the caller asked for something that is not a request
    │   ├── InvalidUid
    │   ├── InvalidFrameNumber
    │   ├── InvalidWindow
    │   └── InvalidRegion
    ├── Unauthorized                401  a token that is needed is missing or wrong
    ├── Forbidden                   403  switched off here, such as storing
    ├── NotFound                    404  no such study, series, instance, frame or image id
    ├── NotAcceptable               406  none of the media types in Accept can be had
    ├── NotRenderable               406  the object has no pixels, or cannot be shown as asked
    ├── TooSlow                     408  a request that stopped arriving
    ├── SelfTestRunning             409  one at a time
    ├── TooLarge                    413  the header declares more than the set limits
    ├── UnsupportedMediaType        415  a body of a kind that is not taken
    ├── CorruptPixelData            422  truncated, contradictory, or the decoder refused it
    │   └── DecoderTimeout          422  the decoder ran past its time or memory limit
    ├── UnsupportedTransferSyntax   501  no decoder; says what would be needed
    ├── Overloaded                  503  the queue is full; retry later
    │   └── NoProcessorTime         503  others had all processors for too long; retry later
    └── StorageFull                 507  no room to store what was sent

    StartupError                         the service cannot start; told to the operator, never to a client
    UnreadableFile                       raised by a scan only: listed with its reason, never fatal

A message may name UIDs, tags, transfer syntaxes and sizes. It never holds a patient attribute, a file path or
the text of another library's exception (which can quote element values).
The HTTP status of each class is set in one table, ``api/problems.py``.
"""


class RenderError(Exception):
    """Base of all errors of this package."""


class BadRequest(RenderError):
    """The request itself is malformed."""


class InvalidUid(BadRequest):
    """A UID breaks PS3.5 section 9: at most 64 characters, digits and dots, no empty or zero-led component."""


class InvalidFrameNumber(BadRequest):
    """A frame number is not an integer from 1 upwards."""


class InvalidWindow(BadRequest):
    """A window that PS3.3 C.11.2.1.2 does not allow."""


class InvalidRegion(BadRequest):
    """A region outside the image, or a viewport without area."""


class Unauthorized(RenderError):
    """Something that needs a token which the caller has not shown."""


class Forbidden(RenderError):
    """Something this service is not set up to do; the message says which setting would change that."""


class NotFound(RenderError):
    """The archive does not hold what was asked for."""


class NotAcceptable(RenderError):
    """Nothing that the caller accepts can be made."""


class NotRenderable(RenderError):
    """The object has no pixels (SR, PR, KO ...), or cannot be shown in the way that was asked for."""


class TooSlow(RenderError):
    """The body of a request stopped arriving."""


class SelfTestRunning(RenderError):
    """A self-test is under way, and two at a time would measure each other."""


class TooLarge(RenderError):
    """Declared sizes exceed the limits; nothing was allocated."""


class UnsupportedMediaType(RenderError):
    """A request body of a media type that is not taken."""


class StorageFull(RenderError):
    """There is no room to store what was sent; nothing of it was kept."""


class CorruptPixelData(RenderError):
    """Truncated or corrupt pixel data, lengths that disagree, or a decoder that failed."""


class DecoderTimeout(CorruptPixelData):
    """The decoder was stopped at its time or memory limit."""


class UnsupportedTransferSyntax(RenderError):
    """No decoder for this transfer syntax is known or installed."""


class Overloaded(RenderError):
    """The render queue is full. ``retry_after_s`` is a hint in seconds."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoProcessorTime(Overloaded):
    """Work was given up since other programs left no processor time for it: that says nothing about its bytes."""


class StartupError(RenderError):
    """The service cannot start; the message says what to do."""


class UnreadableFile(RenderError):
    """A file that a scan could not index; the message is the reason shown to operators."""
