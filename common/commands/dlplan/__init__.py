"""The command dlplan: its definition, its text, its JSON document."""
