"""Analysis shared by every debugger adapter; imports no debugger."""
