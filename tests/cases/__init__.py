"""Tables of components: one row each, with its independent reference."""
