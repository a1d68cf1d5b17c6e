"""What a policy server tells a client that it can't serve."""


class RequestError(ValueError):
    """The request can't be served as it came: which key, what was expected and found. Safe to show to a stranger."""


class ServerBusyError(RequestError):
    """Too many requests are waiting already."""


class RequestExpiredError(RequestError):
    """The request waited so long that its observation is stale; computing an answer would only delay the others."""
