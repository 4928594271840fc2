"""How fast the mesh is and what it costs, measured through the edge as users see it, beside what it stands on."""
