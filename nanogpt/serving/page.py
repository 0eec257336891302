"""The page at `/`: one file, whose script may reach nothing but this server."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from starlette.responses import Response

FILE = Path(__file__).with_name("page.html")


@cache
def page() -> Response:
    """`page.html`, with a policy by which a browser runs the script and styles in it alone."""
    text = FILE.read_text(encoding="utf-8")
    own = {tag: _digests(tag, text) for tag in ("script", "style")}
    policy = (
        f"default-src 'none'; script-src {own['script']}; style-src {own['style']};"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(text, media_type="text/html", headers=headers)


def _digests(tag: str, text: str) -> str:
    """What CSP calls the inline elements of a page: by the SHA-256 of what is in each."""
    found = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
