"""Reports of the device: status, metrics, MQTT."""
