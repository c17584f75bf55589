-- Runs once, when the volume is empty; `towncast` itself is made by the image.
CREATE DATABASE mlflow OWNER towncast;
