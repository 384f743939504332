-- Branches whose backups and WAL were deleted with them: what is still said of those afterwards is void.

CREATE TABLE purges (
    instance TEXT NOT NULL,
    branch TEXT NOT NULL,
    done_at BIGINT,
    PRIMARY KEY (instance, branch)
);
