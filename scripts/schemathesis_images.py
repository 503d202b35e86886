r"""Request bodies for schemathesis (pip install schemathesis): images, damaged images, other bytes.

    captioning serve --port 8393 --max-seconds 300
    PYTHONPATH=scripts SCHEMATHESIS_HOOKS=schemathesis_images schemathesis run \
        http://localhost:8393/openapi.json --checks not_a_server_error --continue-on-failure \
        --max-examples 2500

`curl http://localhost:8393/metrics` then has the number of requests by path and status.
"""

from pathlib import Path

import schemathesis
from hypothesis import strategies as st

TINY = Path(__file__).parents[1] / "data" / "tiny"

images = st.sampled_from([path.read_bytes() for path in sorted(TINY.rglob("*.png"))[:4]])
damaged = st.builds(lambda image, size: image[:size], images, st.integers(0, 4000))
bodies = st.one_of(images, damaged, st.binary())

schemathesis.openapi.format("binary", bodies)
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, bodies)
