"""What runs the parts: a local Kafka, the demo, containers, Kubernetes and dashboards."""
