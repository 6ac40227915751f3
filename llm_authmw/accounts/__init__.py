"""What a tenant knows of its users, teams, organisations and end users."""
