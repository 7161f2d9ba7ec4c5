"""Values and decisions without I/O: model, lifecycle, forms, limits, routes, tickets, ports, errors."""
