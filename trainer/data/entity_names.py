"""Words of the entity linker: how seekers call genres, and names that are never linked."""

from __future__ import annotations

GENRES: dict[str, tuple[str, ...]] = {
    "Action_film": ("action", "action film", "action films", "action movie", "action movies"),
    "Adventure_fiction": ("adventure", "adventures"),
    "Animation": ("animation", "animated", "animations"),
    "Anime": ("anime",),
    "Black_comedy": ("dark comedy", "dark comedies", "black comedy", "black comedies"),
    "Comedy_film": ("comedy", "comedies", "comedic"),
    "Crime_film": ("crime", "crime film", "crime movie", "crime movies"),
    "Documentary_film": ("documentary", "documentaries"),
    "Drama_film": ("drama", "dramas"),
    "Family_film": ("family film", "family films", "family movie", "family movies"),
    "Fantasy": ("fantasy",),
    "Horror_film": ("horror", "scary movie", "scary movies", "scary film", "scary films"),
    "Martial_arts_film": ("martial arts",),
    "Musical_film": ("musical", "musicals"),
    "Mystery_film": ("mystery", "mysteries"),
    "Parody": ("parody", "parodies", "spoof", "spoofs"),
    "Romantic_comedy": (
        *("romantic comedy", "romantic comedies", "romcom", "romcoms"),
        *("rom com", "rom coms", "rom-com", "rom-coms"),
    ),
    "Romantic_drama_film": ("romance", "romances", "romantic"),
    "Science_fiction": ("science fiction", "sci fi", "sci-fi", "scifi"),
    "Superhero_film": ("superhero", "superheroes", "super hero", "super heroes", "superheros"),
    "Thriller_(genre)": ("thriller", "thrillers"),
    "Western_(genre)": ("western", "westerns"),
}
"""DBpedia name of a genre -> seekers' words for it, in lower case. Not every graph has all."""

AMBIGUOUS_NAMES = frozenset({
    *("action", "adventure", "again", "alive", "always", "america", "american", "amazing"),
    *("arrival", "australia", "awake", "awesome", "baby", "best", "black", "bird", "brothers"),
    *("cars", "china", "christmas", "click", "clown", "college", "comedy", "common", "crazy"),
    *("date night", "dead", "drama", "dreams", "dude", "easy", "england", "english", "enough"),
    *("epic", "everyone", "family", "fame", "fear", "flick", "france", "free", "friday", "friend"),
    *("friends", "game", "girls", "gold", "gone", "good time", "great", "haha", "happy"),
    *("haven", "hello", "help!", "here", "hero", "holiday", "holidays", "hollywood", "home"),
    *("animal", "hope", "house", "india", "indian", "italy", "jack", "jane", "japan", "japanese"),
    *("johnson", "july", "june"),
    *("just", "justice", "kids", "killers", "king", "korean", "life", "like", "loved", "lost"),
    *("love story", "mark", "maybe", "monday", "money", "monster", "morgan", "mother", "movie"),
    *("music", "next", "nice", "nothing", "october", "once", "parents", "perfect", "prince"),
    *("princess", "really", "remember", "rent", "rings", "robin", "romance", "russia", "saturday"),
    *("serial", "seven", "sister", "sisters", "smile", "something new", "spanish", "spider"),
    *("stay", "still", "summer", "sunday", "super", "superhero movie", "sure"),
    *("take", "taken", "texas", "thanksgiving", "them", "then", "they", "thriller", "time"),
    *("tonight", "trust", "very", "vietnam", "waiting", "wanted", "water", "weekend", "well"),
    *("what", "when", "wild", "with", "world", "writer", "wrong", "yeah", "your", "zombie"),
    *("anything else", "checking out", "coming home", "get out", "get ready", "good kids"),
    *("old school", "sad movie", "the actors", "the comedy", "the conversation", "the end"),
    *("the family", "the kid", "the one", "the other", "the others", "the thriller", "up there"),
    *("13th", "aliens", "the rock", "valentine's day"),
    *("all the way", "you laugh", "young adult", "my life", "date movie", "funny people"),
})  # fmt: skip
"""Names in lower case that are never linked: in such dialogues they mostly mean something else."""
