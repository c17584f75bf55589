-- Runs once, when the volume is empty; `towncast` itself is made by the image.
CREATE DATABASE mlflow OWNER towncast;
-- In an image that brings TimescaleDB, the prediction log becomes hypertables as soon as the extension is there.
DO $$
BEGIN
    IF current_setting('shared_preload_libraries') LIKE '%timescaledb%' THEN
        CREATE EXTENSION IF NOT EXISTS timescaledb;
    END IF;
END
$$;
