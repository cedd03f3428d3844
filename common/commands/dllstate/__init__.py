"""The command dllstate: its definition, its text, its JSON document."""
