"""One connection to one TiDB instance: settings, TLS, driver, deadlines, errors."""
