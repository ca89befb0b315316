"""The web server: Dagster's pages with our banner, and the pages of the desk."""
