"""The exceptions of the package."""


class ThunderError(RuntimeError):
    """Base of what this package raises. `code` is the canonical name of what happened ("ABORTED": a peer differs or has left,
    "DEADLINE_EXCEEDED": a peer did not come, "INVALID_ARGUMENT", ...)."""

    code = "UNKNOWN"


class CompileError(ThunderError):
    """A compile failed. `code` as above, `source` the line of the
    user's program the failing operator comes from, when there is one, `detail` further lines (a compiler's stderr)."""

    def __init__(self, message, code="UNKNOWN", source=None, detail=""):
        text = message
        if source:
            text += f"\n  at {source}"
        if detail:
            text += "\n" + detail.rstrip()
        super().__init__(text)
        self.code, self.source, self.detail = code, source, detail


class DaemonError(ThunderError):
    """No daemon could be reached or started, or it broke off."""


class Unsupported(Exception):
    """Something in a captured graph that Thunder does not compile. `node` is the number of the node in the graph that
    TorchDynamo gave, `operator` its name for people."""

    def __init__(self, operator, reason, node=None):
        super().__init__(f"{operator}: {reason}")
        self.operator, self.reason, self.node = operator, reason, node
