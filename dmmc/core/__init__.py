"""What every layer uses: errors, random streams, files."""
