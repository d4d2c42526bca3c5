"""Many devices, seen and commanded through their MQTT broker."""
