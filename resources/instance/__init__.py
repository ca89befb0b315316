"""The Dagster instance: storages, launcher, retention, and every use of Dagster's private API."""
