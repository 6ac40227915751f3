"""May they: roles, the routes and models that these allow, and who has them."""
