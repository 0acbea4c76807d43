"""Logs that other scripts wrote, as arms that are compared: `reports.compare`."""
