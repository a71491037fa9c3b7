"""Webhooks: endpoints, their subscribed event types and their deliveries. Jobs write deliveries, workers send them."""
