"""The command dllplan: its definition, its text, its JSON document."""
