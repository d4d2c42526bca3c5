"""Reports about the device: status, metrics, MQTT."""
