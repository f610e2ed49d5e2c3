"""Running a broker: Mosquitto, the embedded one, and a link that is as bad as it is told to be."""
