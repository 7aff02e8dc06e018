INDEX: dict[tuple[str, str], str] = {}
