-- A catalog of schema version 1, as the program of that version made it: files, open plans, trash.
-- Never to be changed: catalogs like it are to be brought to whatever schema is the newest.
BEGIN TRANSACTION;
CREATE TABLE blocks (
	generation INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	size INTEGER NOT NULL, 
	crc32c TEXT, 
	PRIMARY KEY (generation, position), 
	FOREIGN KEY(generation) REFERENCES plans (generation)
)
 WITHOUT ROWID

;
INSERT INTO "blocks" VALUES(1,0,'letters/a.txt-0',7,'0a0b0c0d');
INSERT INTO "blocks" VALUES(1,1,'letters/a.txt-1',3,'0a0b0c0d');
INSERT INTO "blocks" VALUES(3,0,'old name-0',7,'0a0b0c0d');
INSERT INTO "blocks" VALUES(3,1,'old name-1',7,'0a0b0c0d');
INSERT INTO "blocks" VALUES(3,2,'old name-2',6,'0a0b0c0d');
INSERT INTO "blocks" VALUES(5,0,'replaced-0.5',5,'0a0b0c0d');
INSERT INTO "blocks" VALUES(6,0,'upload-0',7,NULL);
INSERT INTO "blocks" VALUES(6,1,'upload-1',7,NULL);
INSERT INTO "blocks" VALUES(7,0,'by hand-0',3,'00000001');
CREATE TABLE catalog (
	schema_version INTEGER NOT NULL, 
	catalog_id TEXT NOT NULL, 
	running_seconds INTEGER NOT NULL
);
INSERT INTO "catalog" VALUES(1,'0123456789abcdef0123456789abcdef',12345);
CREATE TABLE data_servers (
	"key" INTEGER NOT NULL, 
	address TEXT NOT NULL, 
	advertised TEXT, 
	registered BOOLEAN NOT NULL, 
	placing BOOLEAN NOT NULL, 
	PRIMARY KEY ("key"), 
	UNIQUE (address)
);
INSERT INTO "data_servers" VALUES(1,'one:9001',NULL,0,1);
INSERT INTO "data_servers" VALUES(2,'two:9001','far.example:9002',0,1);
INSERT INTO "data_servers" VALUES(3,'three:9001',NULL,0,0);
INSERT INTO "data_servers" VALUES(4,'four:9001','far.example:9004',1,1);
CREATE TABLE plans (
	generation INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name TEXT NOT NULL, 
	state TEXT NOT NULL, 
	explicit BOOLEAN NOT NULL, 
	total_size INTEGER NOT NULL, 
	block_size INTEGER NOT NULL, 
	replicas INTEGER NOT NULL, 
	attributes TEXT NOT NULL, 
	stem TEXT, 
	if_generation INTEGER, 
	modified TEXT
);
INSERT INTO "plans" VALUES(1,'letters/a.txt','committed',1,10,7,2,'{"mode":"0644"}','letters/a.txt',NULL,'2026-01-02T03:04:05.678Z');
INSERT INTO "plans" VALUES(2,'letters/empty','committed',1,0,7,1,'{}','letters/empty',NULL,'2026-01-02T03:04:05.678Z');
INSERT INTO "plans" VALUES(3,'letters/ß.txt','committed',1,20,7,1,'{}','old name',NULL,'2026-01-02T03:04:05.678Z');
INSERT INTO "plans" VALUES(5,'replaced','committed',1,5,7,1,'{}',NULL,NULL,'2026-01-02T03:04:05.678Z');
INSERT INTO "plans" VALUES(6,'upload','pending',1,14,7,2,'{}','upload',0,NULL);
INSERT INTO "plans" VALUES(7,'by hand','pending',0,3,7,1,'{}','by hand',NULL,NULL);
CREATE TABLE replicas (
	generation INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	rank INTEGER NOT NULL, 
	server INTEGER NOT NULL, 
	PRIMARY KEY (generation, position, rank), 
	FOREIGN KEY(server) REFERENCES data_servers ("key")
)
 WITHOUT ROWID

;
INSERT INTO "replicas" VALUES(1,0,0,1);
INSERT INTO "replicas" VALUES(1,0,1,2);
INSERT INTO "replicas" VALUES(1,1,0,1);
INSERT INTO "replicas" VALUES(1,1,1,2);
INSERT INTO "replicas" VALUES(3,0,0,3);
INSERT INTO "replicas" VALUES(3,1,0,3);
INSERT INTO "replicas" VALUES(3,2,0,3);
INSERT INTO "replicas" VALUES(5,0,0,2);
INSERT INTO "replicas" VALUES(6,0,0,1);
INSERT INTO "replicas" VALUES(6,0,1,2);
INSERT INTO "replicas" VALUES(6,1,0,1);
INSERT INTO "replicas" VALUES(6,1,1,2);
INSERT INTO "replicas" VALUES(7,0,0,4);
CREATE TABLE trash (
	"key" INTEGER NOT NULL, 
	block_id TEXT NOT NULL, 
	server INTEGER NOT NULL, 
	stem TEXT, 
	due INTEGER NOT NULL, 
	PRIMARY KEY ("key"), 
	FOREIGN KEY(server) REFERENCES data_servers ("key")
);
INSERT INTO "trash" VALUES(1,'replaced-0',1,'replaced',1000);
INSERT INTO "trash" VALUES(2,'replaced-0',4,'replaced',1000);
INSERT INTO "trash" VALUES(3,'deleted-0',3,'deleted',900);
CREATE UNIQUE INDEX plans_committed_name ON plans (name) WHERE state = 'committed';
CREATE INDEX plans_stem ON plans (stem) WHERE stem IS NOT NULL;
CREATE INDEX plans_pending_name ON plans (name) WHERE state = 'pending';
CREATE INDEX trash_due ON trash (due);
CREATE INDEX trash_stem ON trash (stem) WHERE stem IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('plans',8);
COMMIT;
