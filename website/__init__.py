"""The documentation site: the pages that are generated, and what mkdocs needs to show ``docs/`` as it stands."""
