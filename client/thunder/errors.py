"""The exceptions of the package."""


class ThunderError(RuntimeError):
    """Base of the exceptions of this package, and what a plan that runs raises; a RuntimeError.

    Attributes:
        code: the canonical name of what happened: "ABORTED" (a peer differs or has left), "DEADLINE_EXCEEDED" (a peer did not come, or
            a compile took too long), "INVALID_ARGUMENT", ...
    """

    code = "UNKNOWN"


class CompileError(ThunderError):
    """A compile failed.

    Attributes:
        code: the canonical name: "UNIMPLEMENTED" (an operator or a case of it), "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED" (memory of
            the compile), "DEADLINE_EXCEEDED", "UNAVAILABLE" (no C compiler), "INTERNAL" (a fault of Thunder), ...
        source: the line of the user's program that the failing operator comes from, or None.
        detail: further lines, such as a compiler's messages; "" when there are none.
    """

    def __init__(self, message, code="UNKNOWN", source=None, detail=""):
        text = message
        if source:
            text += f"\n  at {source}"
        if detail:
            text += "\n" + detail.rstrip()
        super().__init__(text)
        self.code, self.source, self.detail = code, source, detail
        self.operator = self.node = None  # of the captured graph, where known


class DaemonError(ThunderError):
    """No daemon could be reached or started, or it broke off. The next call tries again and starts one."""


class Unsupported(Exception):
    """Something in a captured graph that Thunder does not compile. `node` is the number of the node in the graph that
    TorchDynamo gave, `operator` its name for people."""

    def __init__(self, operator, reason, node=None):
        super().__init__(f"{operator}: {reason}")
        self.operator, self.reason, self.node = operator, reason, node
