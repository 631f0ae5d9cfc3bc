"""One check a file: `measure(...) -> list[Measurement]`, candidate against reference, never assuming."""
