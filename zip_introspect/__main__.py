"""`python -m zip_introspect` is `zip-introspect`."""

from zip_introspect.cli import main

if __name__ == "__main__":
    main()
