"""Pages in a browser whose errors a test must not have."""


def watch(context, contexts, errors):
    """Return a new page of a browser's context, which is kept to be closed; the page's errors are kept as well."""
    contexts.append(context)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page
