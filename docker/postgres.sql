-- The queue's database is made by POSTGRES_DB; MLflow keeps its tables in one of its own.
CREATE DATABASE mlflow;
