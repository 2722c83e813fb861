"""Results for people: tables, pictures, progress."""
