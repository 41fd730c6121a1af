"""The transaction protocol, as generators that yield effects: no sockets, no threads, no event loop, no redis."""
