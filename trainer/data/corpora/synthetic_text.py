"""The words of the synthetic corpus: templates in a small grammar, names, and word relations.

In a template [a|b|c] stands for one of its alternatives, and {film}, {films}, {genre}, {person},
{director} and {actor} for what the dialogue fills in.
"""

from __future__ import annotations

import re

import numpy as np

CHOICE_PATTERN = re.compile(r"\[([^\[\]]*)\]")

GENRES: dict[str, tuple[str, ...]] = {
    "Horror": ("horror", "scary", "creepy", "spooky"),
    "Comedy": ("comedy", "funny", "hilarious", "silly"),
    "Drama": ("drama", "serious", "moving", "emotional"),
    "Thriller": ("thriller", "suspenseful", "tense", "gripping"),
    "Romance": ("romance", "romantic", "love story", "sweet"),
    "Fantasy": ("fantasy", "magical", "fairy tale", "enchanted"),
    "Western": ("western", "cowboy", "frontier", "outlaw"),
    "Science_fiction": ("science fiction", "sci-fi", "space", "futuristic"),
}

FIRST_NAMES = (
    "Anna Boris Clara David Elena Felix Grace Henry Irene Jacob Karen Louis Maria Nolan "
    "Olivia Peter Quentin Rosa Simon Teresa"
)
LAST_NAMES = (
    "Abbott Barker Castillo Donovan Everett Fischer Gallagher Hoffman Ibarra Jensen "
    "Kowalski Lindqvist Moreau Nakamura Ortega Petrov Quinn Rossi Schmidt Thornton"
)
COUNTRIES = ("Canada", "France", "Ireland", "Japan", "Mexico", "United_Kingdom", "United_States")

TITLE_ADJECTIVES = (
    "Silent Broken Golden Hidden Crimson Distant Frozen Hollow Last Lonely Midnight "
    "Restless Secret Shattered Wandering Burning Electric Forgotten Gentle Savage"
)
TITLE_NOUNS = (
    "Harbor Garden Empire Horizon Letter Mirror Mountain Orchard Planet Promise River "
    "Shadow Summer Station Stranger Tower Valley Voyage Widow Winter"
)

GREETINGS = (
    "[hi|hello|hey|good morning|good evening][!|.|, how are you?|, how is it going?|, nice to meet"
    " you!]",
    "[hello there|hey there|greetings][!|.|, what a lovely day!|, hope you are having a"
    " great day.]",
)
ASKS = (
    "[what|which] [kind|type|sort] of [movies|films] do you [like|enjoy|usually watch|prefer]?",
    "[can|may|could] i [help you find|suggest|recommend] a [movie|film] [today|tonight|for the"
    " weekend]? what do you [like|enjoy]?",
    "[are you|is there anything] looking for [something in particular|a certain genre|an older or a"
    " newer film]?",
    "tell me [a bit|a little|something] about [your taste|what you enjoy], [please|and i"
    " will try my best].",
)
WISHES = (
    "[i am|i'm] [looking|searching|hoping] for a [good|great|nice|decent] {genre}"
    " [movie|film|flick] [to watch tonight|for my family|for date night|with my friends|].",
    "[i love|i really like|i enjoy|i adore] {genre} [movies|films], [any ideas|any suggestions|can"
    " you recommend some|what should i watch]?",
    "[i am in the mood for|i could use|give me] something {genre}[, please|, like {film}|][.|!]",
    "[anything|something] with {person} [would be great|sounds perfect|is fine with me], [i"
    " am a big fan|such a talented artist].",
)
PROBES = (
    "[which|what] [films|movies] have you [seen|watched] [lately|recently|before] that you"
    " [liked|loved|enjoyed]?",
    "[do you have|is there] a [favorite|favourite] [actor|director|movie|film]?",
    "[great|cool|nice|awesome] choice, [who do you like|what did you enjoy most|can you name an"
    " example]?",
    "{genre} [films|movies] are [my favorite too|always fun|a good pick], [anything you loved"
    " before|name one you liked]?",
)
LIKES = (
    "[i loved|i really liked|i enjoyed|my favorite is] {films}[.| because of {person}.| since it is"
    " so {genre}.|!]",
    "[have you seen|do you know|did you watch] {films}? [i thought it was|it was so] [great|amazing"
    "|brilliant|wonderful|well made].",
    "{films} [was|is] [excellent|fantastic|one of the best], [{person} was incredible|i watched it"
    " twice|the story was beautiful|i cried at the ending].",
    "[something like|along the lines of|similar to] {films}, [if possible|i guess|preferably with"
    " {person}].",
)
RECOMMENDATIONS = (
    "[have you seen|did you ever watch|do you know] {films}[?|? it is very {genre}.|? {actor} is in"
    " it.|? {director} directed that one.]",
    "[you should|you might want to|i think you would like to|i would] [watch|try|check out] {films}"
    "[.|, it stars {actor}.|, a {genre} one by {director}.|!]",
    "[how about|what about|maybe] {films}[?|? {actor} plays the lead.|, it is quite {genre}.|? the"
    " reviews were outstanding.]",
    "[in that case|then|if you like that] [i recommend|i suggest|go for|definitely see] {films}"
    "[.|, {director} made it.|, {actor} is wonderful there.|, people say it is {genre}.]",
    "{films} [is|would be] [a great one|perfect for you|worth your time|a classic]"
    "[.|, with {actor}.|, really {genre}.]",
)
ACCEPTS = (
    "[that sounds|sounds] [good|great|interesting|perfect|fun], [i will|i'll] [watch"
    " it|check it out|add it to my list|give it a try][.|!]",
    "[oh|ah|wow], [i have been meaning to see that|i heard about that one|my sister mentioned it],"
    " thank you[.|!]",
    "[i have not|i haven't] [seen|watched] [that one|it] yet, [thanks|i am curious now|looks"
    " like my kind of movie].",
)
MORES = (
    "[i have already seen|i already watched|yes i know] [that|that one|it] and [loved it|liked it a"
    " lot|it was great], [anything else|what else|another suggestion]?",
    "[thanks|great|okay|alright], [do you have|can you think of|is there] [one"
    " more|another|something similar]?",
    "[not sure|hmm|maybe], [i prefer|rather] something [more|a bit more] {genre}[.|, any"
    " other idea?]",
)
DETAILS = (
    "[it is about|the story follows] [a family|two strangers|an old soldier|a young teacher|a"
    " journalist] who [travel|search for the truth|fall apart|find a treasure|lose everything].",
    "[yes|indeed|i agree], {director} [directed it|is a genius|never disappoints] and {actor}"
    " [plays the hero|is the villain|shines in it].",
    "[the music|the ending|the scenery|the acting] [is|was] [stunning|unforgettable|surprising]"
    "[.|, you will not regret it.]",
)
THANKS = (
    "[thank you|thanks|thanks a lot|many thanks] for [your help|the suggestions|your time|the"
    " recommendation][.|!] [bye|goodbye|have a nice day|take care][.|!]",
    "[you were|you have been] [very|so|really] helpful[.|!] [see you|have a good night|enjoy your"
    " evening][.|!]",
)
CLOSINGS = (
    "[you are welcome|no problem|my pleasure|glad i could help|anytime][.|!] [enjoy|have fun|enjoy"
    " the movie|grab some popcorn][.|!]",
    "[have a|wish you a] [great|good|nice|wonderful] [day|night|evening|weekend][.|!] [bye|goodbye"
    "|take care][.|!]",
    "[happy to help|of course|sure thing], [tell me how you liked it|come back soon|bye for now].",
)

WORD_RELATIONS = (
    ("Synonym", "movie", "film"),
    ("Synonym", "great", "wonderful"),
    ("Synonym", "like", "enjoy"),
    ("Synonym", "recommend", "suggest"),
    ("Antonym", "good", "bad"),
    ("Antonym", "love", "hate"),
    ("Antonym", "funny", "serious"),
    ("IsA", "actor", "person"),
    ("IsA", "director", "person"),
    ("RelatedTo", "watch", "see"),
    ("PartOf", "ending", "story"),
    ("PartOf", "scene", "movie"),
)


def pick(templates: tuple[str, ...], generator: np.random.Generator) -> str:
    """One of the templates with its choices drawn, innermost first; slots are left in."""
    text = templates[generator.integers(len(templates))]
    while match := CHOICE_PATTERN.search(text):
        options = match.group(1).split("|")
        text = (
            text[: match.start()] + options[generator.integers(len(options))] + text[match.end() :]
        )
    return " ".join(text.split())


def concept_rows() -> list[tuple[str, str, str]]:
    """(relation, word, word) rows: the words of each genre belong together."""
    rows = [*WORD_RELATIONS]
    for words in GENRES.values():
        head = words[0].replace(" ", "_")
        rows.append(("IsA", head, "genre"))
        rows += [("RelatedTo", word.replace(" ", "_"), head) for word in words[1:]]
    return sorted(rows)
