"""What MLflow, its database or the way there answered: does waiting help, and if not, what does?

    try: ...
    except Exception as error:
        trouble = explain(error)
        if trouble.passing: ...       # a server that is down or busy, a database that is locked
        else: ...                     # a wrong password, an old database: until somebody mends it

What is not known to pass counts as lasting: a person is then told, instead of waiting for ever.
"""

import errno
import re
from dataclasses import dataclass

from nanogpt.common.errors import UserError
from nanogpt.common.secrets import public

ELSEWHERE = "mend that, or have MLFLOW_TRACKING_URI name another MLflow"
ADVICE = {  # by the status that a server answers with
    401: "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, say who"
    " you are",
    403: "whoever runs the server has to let you write there, and has to allow the name by which"
    " MLFLOW_TRACKING_URI calls it",
    404: "look whether MLFLOW_TRACKING_URI is the address of an MLflow server, and which version"
    " it is",
    407: "a proxy wants a password: put it into HTTPS_PROXY, or the server into NO_PROXY",
    413: "the server, or a proxy before it, takes no upload of this size: raise its limit",
}
# of a connection that was not made: requests quotes urllib3, which quotes the system
UNREACHED = re.compile(r"Max retries exceeded .*\(Caused by .*(?:: |, ['\"])(.+?)['\"]\)\)")
STATUS = re.compile(r"failed with error code (\d{3})|Tunnel connection failed: (\d{3})")
PASSING_STATUS = {408, 409, 423, 425, 429, 499}  # and 5xx, but for what is never there
NEVER_STATUS = {501, 505}
GATEWAY = {502, 503, 504}
# what is lasting though its kind of error mostly passes: words of the message, what helps
LASTING = (
    (r"certificate", "MLFLOW_TRACKING_SERVER_CERT_PATH names the certificate to trust"),
    (r"\[SSL: (WRONG_VERSION_NUMBER|HTTP_REQUEST)", "look whether it is http:// or https://"),
    (r"INTERNAL_ERROR: Response: .*(auth|forbidden|denied|token)", ADVICE[401]),
    (r"not in a valid JSON format", ADVICE[404]),
    (
        r"out-of-date database schema",
        "`make upgrade-mlflow` upgrades one of this machine, and keeps a"
        " copy; whoever runs a server keeps a copy and runs `mlflow db upgrade <its URI>`",
    ),
    (r"locate revision", "it was made by a newer MLflow than the one that is installed"),
    (r"not a database|malformed", "put a copy in its place, or move it away for a new one"),
    (r"read-?only|unable to open database|Permission denied", "make it a place that you may write"),
    (r"no such (table|column)|does not exist|authentication failed|Access denied", ELSEWHERE),
    (r"unsupported URI|No (scheme|connection adapters)|Invalid url|Failed to parse", ELSEWHERE),
    (r"file(system)? (tracking )?(store|backend)|maintenance mode", ELSEWHERE),
)
# and what passes though its kind of error mostly lasts
PASSING = re.compile(
    r"is locked|Connection ?(Error|Reset|Refused|aborted)|refused|timed? ?out|timeout|reset by peer"
    r"|unreachable|could not connect|closed the connection|Name or service|Max retries|gone away",
    re.IGNORECASE,
)
LASTING_ERRNO = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT}


@dataclass(frozen=True)
class Trouble:
    """Why MLflow does not have something: one line without credentials, and whether it passes."""

    reason: str
    passing: bool
    advice: str = ""  # what helps where waiting does not, unless the reason says it

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}" if self.advice else self.reason


def explain(error: Exception) -> Trouble:
    """What an error means; what lasts says what helps."""
    if isinstance(error, UserError):
        return Trouble(str(error), False)
    # all of it is looked at; one line of it is told: MLflow's can have a page
    kind = "" if type(error).__module__.startswith("mlflow") else f"{type(error).__name__}: "
    text = f"{kind}{error}".strip()
    first = text.partition("\n")[0]
    if unreached := UNREACHED.search(first):
        first = f"it does not answer ({unreached[1]})"
    short = public(first)[:200]
    code, status = str(getattr(error, "error_code", "")), _status(error, text)
    if status in GATEWAY and STATUS.search(text):
        return Trouble(short, True)  # what its page says is not MLflow's word
    if status in ADVICE and code != "RESOURCE_DOES_NOT_EXIST":
        return Trouble(short, False, ADVICE[status])
    for words, advice in LASTING:
        if re.search(words, text, re.IGNORECASE):
            return Trouble(short, False, advice)
    # of two that make the same at once the second finds it when it asks again
    if code == "RESOURCE_ALREADY_EXISTS" or _passes(error, text, status):
        return Trouble(short, True)
    return Trouble(short, False, ELSEWHERE)


def _status(error: Exception, text: str) -> int:
    """The status of a server's answer, or of MLflow's own error; 0 if it has none."""
    if found := STATUS.search(text):
        return int(found[1] or found[2])
    if (response := getattr(error, "response", None)) is not None:  # as requests has it
        return int(getattr(response, "status_code", 0))
    ask = getattr(error, "get_http_status_code", None)
    return int(ask()) if ask else 0


def _passes(error: Exception, text: str, status: int) -> bool:
    if status:
        return status in PASSING_STATUS or (status >= 500 and status not in NEVER_STATUS)
    if PASSING.search(text):
        return True
    return isinstance(error, OSError) and error.errno not in LASTING_ERRNO
