"""MQTT: reports to a broker, and commands from it."""
