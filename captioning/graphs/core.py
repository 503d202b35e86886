"""The connection to OpenVINO of this process."""

import openvino as ov

# One that is never deleted. With the first network, a core gives the thread another stack for
# signal handlers. If cores are not deleted in the reverse order of their creation, or are deleted
# in another thread, the thread keeps a stack that no longer exists, and the next Ctrl-C ends the
# process with a segmentation fault (seen with OpenVINO 2026.4).
CORE = ov.Core()
