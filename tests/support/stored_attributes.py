"""Lists and changes the stored attributes of a study in its SQLite database."""

import json
import sqlite3
from contextlib import closing

TABLES = {
    "study_user_attributes": "value_json",
    "study_system_attributes": "value_json",
    "trial_user_attributes": "value_json",
    "trial_system_attributes": "value_json",
}
OURS = """
    (key IN ('settings', 'dataset_note', 'normalisation', 'classes', 'confirmed', 'outcome', 'reason', 'fingerprint',
             'candidate', 'num_draws', 'seed', 'seconds', 'consistent_accuracy', 'params', 'macs', 'receptive_field',
             'peak_activation_bytes', 'weight_bytes') OR key LIKE 'nas:%')
"""


def attributes(results):
    """Returns table, ID, key and value of our attributes; for each key of a table the first and last row."""
    with closing(sqlite3.connect(results / "studies.db")) as database:
        found = []
        for table, column in TABLES.items():
            of = f"SELECT key, min({table}.{table[:5]}_id) AS low, max({table}.{table[:5]}_id) AS high FROM {table}"
            for key, *ids in database.execute(f"{of} WHERE {OURS} GROUP BY key"):
                for owner in sorted(set(ids)):
                    where = f"{table[:5]}_id = ? AND key = ?"
                    ((value,),) = database.execute(f"SELECT {column} FROM {table} WHERE {where}", (owner, key))
                    found.append((table, owner, key, json.loads(value)))
    return found


def change(results, table, owner, key, text):
    """Replaces the stored text of an attribute; None deletes the attribute."""
    with closing(sqlite3.connect(results / "studies.db")) as database:
        where = f"{table[:5]}_id = ? AND key = ?"
        if text is None:
            database.execute(f"DELETE FROM {table} WHERE {where}", (owner, key))
        else:
            database.execute(f"UPDATE {table} SET {TABLES[table]} = ? WHERE {where}", (text, owner, key))
        database.commit()
