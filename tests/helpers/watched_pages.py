"""Pages in a browser whose errors a test must not have."""


def watch(context, errors):
    """Return a new page of a browser's context, whose errors are kept."""
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page


def close(pages, shared):
    """Close pages, and the contexts of those that have one of their own."""
    for page in pages:
        (page if page.context is shared else page.context).close()
