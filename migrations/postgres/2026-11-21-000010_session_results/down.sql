DROP TABLE session_results;
