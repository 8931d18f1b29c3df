"""The prompts that the original recipe trained with, word for word.

Source: DocVQA: the recipe's own suffix. Hateful Memes and NLVR2: the texts of HuggingFaceM4/the_cauldron, whose
makers drew one at random for each example.
"""

from __future__ import annotations

DOCVQA = ("{question}\nAnswer briefly.",)
AS_GIVEN = ("{question}",)  # the_cauldron's texts hold their prompts already

HATEFUL_MEMES = tuple(
    f"{question}\nAnswer yes or no."
    for question in (
        "Is the sentiment of this meme offensive?",
        "Does this meme promote hate speech?",
        "Can this meme be considered disrespectful?",
        "Does this meme carry a negative message?",
        "Is this meme spreading toxicity?",
        "Can this meme be harmful to a community?",
        "Is the humor in this meme in bad taste?",
        "Is the message of this meme aggressive?",
        "Does this meme support discrimination?",
        "Is the language used in this meme hateful?",
        "Can this meme be interpreted as derogatory?",
    )
)
# Before the prompt, with --with_text. The recipe gives the model no text.
MEME_TEXT = 'The text of this meme: "{text}"\n'

NLVR2 = tuple(
    "The first image is the image on the left, the second image is the image on the right. "
    f"{question} Answer yes or no."
    for question in (
        'Evaluate the accuracy of this statement regarding the images: "{caption}". Is it true?',
        'Given the left and right images, does the statement "{caption}" hold true?',
        'Assess this claim about the two images: "{caption}". Correct or not?',
        'For the images shown, is this caption "{caption}" true?',
        'Considering the images on both sides, is "{caption}" valid?',
        'Analyze the images presented: Is the assertion "{caption}" valid?',
        'For the images displayed, is the sentence "{caption}" factually correct?',
        'Examine the images to the left and right. Is the description "{caption}" accurate?',
    )
)
