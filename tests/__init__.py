"""The tests of the whole project; folders by what they need."""
