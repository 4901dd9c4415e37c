"""Ways into the guard for code that already sends: around a block, around a function, under an HTTP client."""
