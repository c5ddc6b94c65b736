-- A small wrestling school, made up for palaestra.
CREATE TABLE wrestler (id INTEGER PRIMARY KEY, name TEXT NOT NULL, city TEXT, weight REAL, joined INTEGER);
CREATE TABLE coach (id INTEGER PRIMARY KEY, name TEXT NOT NULL, years INTEGER);
CREATE TABLE bout (
    id INTEGER PRIMARY KEY,
    winner INTEGER NOT NULL REFERENCES wrestler(id),
    loser INTEGER NOT NULL REFERENCES wrestler(id),
    coach INTEGER REFERENCES coach(id),
    minutes REAL,
    held_on TEXT
);
INSERT INTO wrestler VALUES
    (1, 'Milo', 'Croton', 96.5, 2015), (2, 'Atalanta', 'Tegea', 61.0, 2017), (3, 'Theagenes', 'Thasos', 88.0, 2016),
    (4, 'Polydamas', 'Skotoussa', 104.2, 2018), (5, 'Leontiskos', 'Messene', 74.5, 2017),
    (6, 'Kallipateira', 'Rhodes', 58.3, 2019), (7, 'Timasitheos', 'Croton', 79.9, NULL);
INSERT INTO coach VALUES (1, 'Ikkos', 12), (2, 'Herodikos', 20), (3, 'Diotimos', 3);
INSERT INTO bout VALUES
    (1, 1, 3, 1, 4.5, '2021-03-02'), (2, 7, 1, 2, 9.0, '2021-04-11'), (3, 2, 5, 1, 3.25, '2021-04-12'),
    (4, 4, 1, 2, 7.75, '2021-06-30'), (5, 5, 6, NULL, 2.0, '2022-01-15'), (6, 2, 6, 1, 5.5, '2022-02-20'),
    (7, 1, 4, 2, 6.0, '2022-05-05'), (8, 3, 5, 1, 4.5, '2022-09-09');
