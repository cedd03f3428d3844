"""The command dllshare: its definition, its text, its JSON document."""
