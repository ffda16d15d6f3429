"""The magics: a line is parsed, the library is called, its value is returned and displayed."""
